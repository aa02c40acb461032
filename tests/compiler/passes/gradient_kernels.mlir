// RUN: attnc opt -p "gradient-kernels{narrow=true},key-ranges"

// Each gradient in a kernel of its own rows; keys walk the queries that see them.
// CHECK: %delta = tile.launch @f_delta(%out, %d_out) {at = "model.py:7"}
// CHECK-NEXT: %d_q = tile.launch @f_query(%q, %k, %v, %lse, %d_out, %delta)
// CHECK-NEXT: %d_k, %d_v = tile.launch @f_key0(%q, %k, %v, %lse, %d_out, %delta)
// CHECK-NEXT: attn.return %d_q, %d_k, %d_v
// CHECK: tile.kernel @f_delta
// CHECK: tile.reduce "sum" %product
// CHECK: tile.kernel @f_query
// CHECK-NEXT: grid "b < B, h < H, t < (N + 63) // 64" rows "i, t * 64, 64, N"
// CHECK: %shift = tile.map <"lambda lse: where(lse == -inf, 0.0, lse * 1.4426950408889634)">
// CHECK: tile.for j in ["0, min(M, t * 64)"] step 64 full
// CHECK-NOT: tile.mask
// CHECK: tile.for j in {{.*}} partial
// CHECK: tile.mask %{{.*}} where <"j <= i">
// CHECK: tile.store %{{.*}}, %dq at <"b, h, i, d"> :
// CHECK: tile.kernel @f_key0
// CHECK-NEXT: grid "b < B, h < H, t < (M + 63) // 64" rows "j, t * 64, 64, M"
// CHECK: tile.for i in ["t * 64 + 64, N"] step 64 full
// CHECK-NOT: tile.mask
// CHECK: %p = tile.map <"lambda s, shift: exp2(s * 0.18033688011112042 - shift)">
// CHECK: %ds = tile.map <"lambda p, dp, delta: p * (dp * 0.125 - delta)">
// CHECK: tile.map <"lambda ds: ds">(%ds) : (!tile.tile<"j:64, i:64", f32>) -> !tile.tile<"j:64, i:64", bf16>
// CHECK: tile.for i in ["t * 64, min(N, t * 64 + 64)"] step 64 partial
// CHECK: tile.store %{{.*}}, %dv at <"b, h, j, e"> :
attn.func @f_gradient(%q: !attn.tensor<"B, H, N, 64", bf16>, %k: !attn.tensor<"B, H, M, 64", bf16>, %v: !attn.tensor<"B, H, M, 64", bf16>, %out: !attn.tensor<"B, H, N, 64", bf16>, %lse: !attn.tensor<"B, H, N", f32>, %d_out: !attn.tensor<"B, H, N, 64", bf16>) {
  %d_q, %d_k, %d_v = attn.attend_gradient of "query", "key0", "value0" over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < M" key %k "b, h, j, d" value %v "b, h, j, e" mask "j <= i" score "lambda dot: dot * 0.125"
    normaliser softmax tiles "64 x 64"
    out "b, h, i, e" width 64 lse "b, h, i"
    given %out, %lse d_out %d_out attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H, M, 64", bf16>, !attn.tensor<"B, H, M, 64", bf16>, !attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H, N", f32>, !attn.tensor<"B, H, N, 64", bf16>) -> (!attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H, M, 64", bf16>, !attn.tensor<"B, H, M, 64", bf16>)
  attn.return %d_q, %d_k, %d_v : !attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H, M, 64", bf16>, !attn.tensor<"B, H, M, 64", bf16>
}

// -----

// Heads that share keys run in order and add; the sum is then rounded.
// CHECK: %dk, %dv = tile.launch @f_key0({{.*}} -> (!attn.tensor<"B, H // 4, M, 64", f32>, !attn.tensor<"B, H // 4, M, 64", f32>)
// CHECK-NEXT: %d_k = attn.call "x0.to(torch.bfloat16)"(%dk)
// CHECK: tile.kernel @f_key0
// CHECK-NEXT: grid "b < B, hk < H // 4, t < (M + 63) // 64, g < 4" sequential 1 rows "j, t * 64, 64, M"
// CHECK: %query = tile.load %q at <"b, g + hk * 4, i, d">
// CHECK: tile.store %{{.*}}, %dk at <"b, hk, j, d"> add
attn.func @f_gradient(%q: !attn.tensor<"B, H, N, 64", bf16>, %k: !attn.tensor<"B, H // 4, M, 64", bf16>, %v: !attn.tensor<"B, H // 4, M, 64", bf16>, %out: !attn.tensor<"B, H, N, 64", bf16>, %lse: !attn.tensor<"B, H, N", f32>, %d_out: !attn.tensor<"B, H, N, 64", bf16>) guards ["H % 4 == 0"] {
  %d_k, %d_v = attn.attend_gradient of "key0", "value0" over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < M" key %k "b, h // 4, j, d" value %v "b, h // 4, j, e" mask "True" score "lambda dot: dot * 0.125"
    normaliser softmax tiles "64 x 64"
    out "b, h, i, e" width 64 lse "b, h, i"
    given %out, %lse d_out %d_out attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H // 4, M, 64", bf16>, !attn.tensor<"B, H // 4, M, 64", bf16>, !attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H, N", f32>, !attn.tensor<"B, H, N, 64", bf16>) -> (!attn.tensor<"B, H // 4, M, 64", bf16>, !attn.tensor<"B, H // 4, M, 64", bf16>)
  attn.return %d_k, %d_v : !attn.tensor<"B, H // 4, M, 64", bf16>, !attn.tensor<"B, H // 4, M, 64", bf16>
}

// -----

// A table that rows and keys share: a slice for each batch, in whose tasks the rows run in order.
// CHECK: %d_bias = tile.launch @f_bias({{.*}} -> !attn.tensor<"B, H, 513", f32>
// CHECK-NEXT: attn.call "x0.sum((0,))"
// CHECK: tile.kernel @f_bias
// CHECK-NEXT: grid "b < B, h < H, t < (N + 63) // 64" sequential 1 rows "i, t * 64, 64, N"
// CHECK: tile.for j in {{.*}} carry ()
// CHECK: tile.store %ds, %d_bias at <"b, h, i - j + 256"> add
attn.func @f_gradient(%q: !attn.tensor<"B, H, N, 64", bf16>, %k: !attn.tensor<"B, H, M, 64", bf16>, %v: !attn.tensor<"B, H, M, 64", bf16>, %bias: !attn.tensor<"H, 513", f32>, %out: !attn.tensor<"B, H, N, 64", bf16>, %lse: !attn.tensor<"B, H, N", f32>, %d_out: !attn.tensor<"B, H, N, 64", bf16>) {
  %d_bias = attn.attend_gradient of "capture:bias" over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < M" key %k "b, h, j, d" value %v "b, h, j, e" mask "abs(i - j) <= 256" score "lambda dot: dot * 0.125 + bias[h, i - j + 256]"
    capture bias = %bias
    normaliser softmax tiles "64 x 64"
    out "b, h, i, e" width 64 lse "b, h, i"
    given %out, %lse d_out %d_out attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H, M, 64", bf16>, !attn.tensor<"B, H, M, 64", bf16>, !attn.tensor<"H, 513", f32>, !attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H, N", f32>, !attn.tensor<"B, H, N, 64", bf16>) -> (!attn.tensor<"H, 513", f32>)
  attn.return %d_bias : !attn.tensor<"H, 513", f32>
}

// -----

// One number for each head: summed along the rows, then scattered.
// CHECK: %d_bias = tile.launch @f_query({{.*}} -> !attn.tensor<"B, H, N", f32>
// CHECK-NEXT: attn.scatter %d_bias over "b < B, h < H, i < N" to "h"
// CHECK: tile.reduce "sum"
// CHECK: tile.store %{{.*}}, %d_bias at <"b, h, i"> :
attn.func @f_gradient(%q: !attn.tensor<"B, H, N, 64", bf16>, %k: !attn.tensor<"B, H, M, 64", bf16>, %v: !attn.tensor<"B, H, M, 64", bf16>, %bias: !attn.tensor<"H", f32>, %out: !attn.tensor<"B, H, N, 64", bf16>, %lse: !attn.tensor<"B, H, N", f32>, %d_out: !attn.tensor<"B, H, N, 64", bf16>) {
  %d_bias = attn.attend_gradient of "capture:bias" over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < M" key %k "b, h, j, d" value %v "b, h, j, e" mask "True" score "lambda dot: dot * bias[h]"
    capture bias = %bias
    normaliser softmax tiles "64 x 64"
    out "b, h, i, e" width 64 lse "b, h, i"
    given %out, %lse d_out %d_out attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H, M, 64", bf16>, !attn.tensor<"B, H, M, 64", bf16>, !attn.tensor<"H", f32>, !attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H, N", f32>, !attn.tensor<"B, H, N, 64", bf16>) -> (!attn.tensor<"H", f32>)
  attn.return %d_bias : !attn.tensor<"H", f32>
}
