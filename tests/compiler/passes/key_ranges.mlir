// RUN: attnc opt -p "choose-tiles{target=cpu-avx512 rows=64 keys=64},online-softmax,key-ranges"

// CHECK: tile.for j in ["0, t * 64"] step 64 full
// CHECK-NOT: tile.mask
// CHECK: tile.for j in ["t * 64, min(N, t * 64 + 64)"] step 64 partial
// CHECK: tile.mask %{{.*}} where <"j <= i">
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, N, 64", f32>, %v: !attn.tensor<"B, H, N, 64", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "j <= i" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}

// -----

// CHECK: tile.for j in ["max(t * 64 - 192, 0), min(N, t * 64 + 256)"] step 64 full
// CHECK: tile.for j in ["max(t * 64 - 256, 0), max(t * 64 - 192, 0)", "min(N, t * 64 + 256), min(N, t * 64 + 320)"] step 64 partial
// CHECK-NOT: tile.for
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, N, 64", f32>, %v: !attn.tensor<"B, H, N, 64", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "abs(i - j) <= 256" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}

// -----

// Without a mask all keys are full.
// CHECK: tile.for j in ["0, N"] step 64 full
// CHECK-NOT: tile.for
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, N, 64", f32>, %v: !attn.tensor<"B, H, N, 64", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "True" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}
