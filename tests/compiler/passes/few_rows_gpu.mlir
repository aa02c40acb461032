// RUN: attnc opt -p "few-rows{target=sm_90 names=B,H,H_k,N,M values=2,8,2,3,100},split-keys{target=sm_90 names=B,H,H_k,N,M values=2,8,2,3,100}"

// Three queries of four heads each are twelve rows of one tile; parts are as many as processors want tasks.
// CHECK: "N == 3", "H == H_k * 4", "B * H_k * 2 <= 264"
// CHECK: attn.attend over "b < B, hk < H_k, s < max(min((M + 127) // 128, 264 // max(B * H_k, 1)), 1), i < 12"
// CHECK: query %q "b, hk * 4 + i // 3, i % 3, d"
// CHECK: key %k "b, hk, {{.*}}, d"
// CHECK: attn.attend over "b < B, hk < H_k, i < 12, u < 1"
// CHECK: out "b, hk * 4 + i // 3, i % 3, e"
attn.func @f(%q: !attn.tensor<"B, H, N, 128", bf16>, %k: !attn.tensor<"B, H_k, M, 128", bf16>, %v: !attn.tensor<"B, H_k, M, 128", bf16>) guards ["H % H_k == 0"] {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 128
    source "j < M" key %k "b, h // (H // H_k), j, d" value %v "b, h // (H // H_k), j, e" mask "j <= i + M - N" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "b, h, i, e" width 128 lse "b, h, i"
    : (!attn.tensor<"B, H, N, 128", bf16>, !attn.tensor<"B, H_k, M, 128", bf16>, !attn.tensor<"B, H_k, M, 128", bf16>) -> (!attn.tensor<"B, H, N, 128", bf16>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 128", bf16>
}
