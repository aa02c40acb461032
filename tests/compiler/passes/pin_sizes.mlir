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

// Tokens of an image of H times W: the columns are known, rows, batch and heads stay as they are.
// CHECK: attn.func @image
// CHECK-SAME: guards ["W == 49"]
// CHECK: mask "i // 49 + 7 <= H + j // 49 and i % 49 == j % 49"
attn.func @image(%q: !attn.tensor<"B, C, H, W, 64", f32>, %k: !attn.tensor<"B, C, H, W, 64", f32>, %v: !attn.tensor<"B, C, H, W, 64", f32>) {
  %o, %lse = attn.attend over "b < B, h < C, i < H * W"
    query %q "b, h, i // W, i % W, d" width 64
    source "j < H * W" key %k "b, h, j // W, j % W, d" value %v "b, h, j // W, j % W, e" mask "i // W - j // W <= H - 7 and i % W == j % W" score "lambda dot: dot"
    normaliser softmax
    out "b, h, i // W, i % W, e" width 64 lse "b, h, i"
    : (!attn.tensor<"B, C, H, W, 64", f32>, !attn.tensor<"B, C, H, W, 64", f32>, !attn.tensor<"B, C, H, W, 64", f32>) -> (!attn.tensor<"B, C, H, W, 64", f32>, !attn.tensor<"B, C, H * W", f32>)
  attn.return %o : !attn.tensor<"B, C, H, W, 64", f32>
}
