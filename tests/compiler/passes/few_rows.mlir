// RUN: attnc opt -p "few-rows{names=H,N,M values=8,1,100}"

// One row: the heads that share keys are the rows.
// CHECK: "N == 1"]
// CHECK: attn.attend over "b < B, hk < H // 4, g < 4"
// CHECK: query %q "b, {{.*}}, 0, d"
// CHECK: key %k "b, hk, j, d"
// CHECK: tiles "4 x 64"
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H // 4, M, 64", f32>, %v: !attn.tensor<"B, H // 4, M, 64", f32>) guards ["H % 4 == 0"] {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < M" key %k "b, h // 4, j, d" value %v "b, h // 4, j, e" mask "j <= i + M - N" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i"
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H // 4, M, 64", f32>, !attn.tensor<"B, H // 4, M, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}
