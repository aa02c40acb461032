// RUN: attnc opt -p block-diagonal

// Blocks that are no multiple of the tile become a batch dimension.
// CHECK: attn.attend over "b < B, h < H, g < (N + 48) // 49, i < min(49, N - g * 49)"
// CHECK-NEXT: query %q "b, h, g * 49 + i, d"
// CHECK-NEXT: source "j < min(49, N - g * 49)" key %k "b, h, g * 49 + j, d" {{.*}} mask "abs(i - j) <= 40"
// CHECK: out "b, h, g * 49 + i, e" width 64 lse "b, h, g * 49 + i"
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, N, 64", f32>, %v: !attn.tensor<"B, H, N, 64", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "i // 49 == j // 49 and abs(i - j) <= 40" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}

// -----

// Any spelling.
// CHECK: attn.attend over "b < B, h < H, g < (N + 48) // 49, i < min(49, N - g * 49)"
// CHECK: mask "True"
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, N, 64", f32>, %v: !attn.tensor<"B, H, N, 64", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "abs(i // 49 - j // 49) < 1" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}

// -----

// Blocks that the tiles meet exactly gain nothing.
// CHECK: attn.attend over "b < B, h < H, i < N"
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, N, 64", f32>, %v: !attn.tensor<"B, H, N, 64", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "i // 64 == j // 64" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}
