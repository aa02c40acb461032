// RUN: attnc opt -p image-rows

// Queries of one row of an image; their keys are pieces of rows.
// CHECK: attn.attend over "b < B, h < H, y < (N + 55) // 56, i < min(56, N - y * 56)"
// CHECK-NEXT: query %q "b, h, i + y * 56, d"
// CHECK-NEXT: source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "abs(j // 56 - y) <= 3 and abs(i - j % 56) <= 3"
// CHECK: out "b, h, i + y * 56, e" width 32 lse "b, h, i + y * 56" attributes {at = "model.py:7"}
attn.func @f(%q: !attn.tensor<"B, H, N, 32", f32>, %k: !attn.tensor<"B, H, N, 32", f32>, %v: !attn.tensor<"B, H, N, 32", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 32
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "abs(i // 56 - j // 56) <= 3 and abs(i % 56 - j % 56) <= 3" score "lambda dot: dot"
    normaliser softmax
    out "b, h, i, e" width 32 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 32", f32>, !attn.tensor<"B, H, N, 32", f32>, !attn.tensor<"B, H, N, 32", f32>) -> (!attn.tensor<"B, H, N, 32", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 32", f32>
}

// -----

// A window in one dimension stays as it is.
// CHECK: attn.attend over "b < B, h < H, i < N"
attn.func @f(%q: !attn.tensor<"B, H, N, 32", f32>, %k: !attn.tensor<"B, H, N, 32", f32>, %v: !attn.tensor<"B, H, N, 32", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 32
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "abs(i // 56 - j // 56) <= 3" score "lambda dot: dot"
    normaliser softmax
    out "b, h, i, e" width 32 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 32", f32>, !attn.tensor<"B, H, N, 32", f32>, !attn.tensor<"B, H, N, 32", f32>) -> (!attn.tensor<"B, H, N, 32", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 32", f32>
}
