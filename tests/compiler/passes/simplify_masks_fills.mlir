// RUN: attnc opt -p simplify-masks

// A mask of ones and zeros that scores are multiplied by.
// CHECK: mask "j <= i and (i - j) % 8 == 0" score "lambda dot: dot * 0.5"
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, N, 64", f32>, %v: !attn.tensor<"B, H, N, 64", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "True" score "lambda dot: dot * 0.5 * where(j <= i and (i - j) % 8 == 0, 1.0, 0.0) - where(j <= i and (i - j) % 8 == 0, 0.0, 1000000000.0)"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}

// -----

// A fill that is taken back for some keys.
// CHECK: mask "i // 2 == j // 2 or j <= i" score "lambda dot: dot"
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, N, 64", f32>, %v: !attn.tensor<"B, H, N, 64", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "True" score "lambda dot: dot + where(j // 2 == i // 2, 0.0, where(i < j, -1000000000.0, 0.0))"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}

// -----

// Row 0 keeps no key, so that its scores stay as they are.
// CHECK: mask "True" score "lambda dot: dot * where(j < i, 1.0, 0.0) - where(j < i, 0.0, 1000000000.0)"
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, N, 64", f32>, %v: !attn.tensor<"B, H, N, 64", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "True" score "lambda dot: dot * where(j < i, 1.0, 0.0) - where(j < i, 0.0, 1000000000.0)"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}
