// RUN: attnc opt -p "pin-sizes{names=W,N values=49,100}"

// CHECK: guards ["W == 49"]
// CHECK: score "lambda dot: dot + table[i, j]"
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, N, 64", f32>, %v: !attn.tensor<"B, H, N, 64", f32>, %table: !attn.tensor<"L, W", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < 49"
    query %q "b, h, i, d" width 64
    source "j < 49" key %k "b, h, j, d" value %v "b, h, j, e" mask "True" score "lambda dot: dot + table[(i * 49 + j) // W, (i * 49 + j) % W]"
    capture table = %table
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i"
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"L, W", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}
