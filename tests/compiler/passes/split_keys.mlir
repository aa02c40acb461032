// RUN: attnc opt -p "split-keys{names=N,M values=4,100 part=16}"

// CHECK: attn.attend over "b < B, h < H, s < (M + 15) // 16, i < N"
// CHECK: key %k "b, h, {{.*}}, d"
// CHECK: attn.attend over "b < B, h < H, i < N, u < 1"
// CHECK: score "lambda dot: part_lse[b, h, s, i]"
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, M, 64", f32>, %v: !attn.tensor<"B, H, M, 64", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < M" key %k "b, h, j, d" value %v "b, h, j, e" mask "True" score "lambda dot: dot * 0.125"
    normaliser softmax tiles "4 x 64"
    out "b, h, i, e" width 64 lse "b, h, i"
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, M, 64", f32>, !attn.tensor<"B, H, M, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}
