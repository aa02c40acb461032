attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, M, 64", f32>, %v: !attn.tensor<"B, H, M, 48", f32>, %bias: !attn.tensor<"H, 511", f32>, %doc: !attn.tensor<"B, N", i64>) guards ["N % 128 == 0", "N == M"] {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < M" key %k "b, h, j, d" value %v "b, h, j, e" mask "abs(i - j) <= 255 and doc.int[b, i] == doc.int[b, j]" score "lambda dot: dot * 0.125 + bias[h, i - j + 255]"
    source "s < 4" key %k "b, h, s, d" value %v "b, h, s, e" mask "True" score "lambda dot: dot"
    capture bias = %bias
    capture doc = %doc
    normaliser softmax tiles "64 x 128"
    out "b, h, i, e" width 48 lse "b, h, i" attributes {at = "model.py:3"}
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, M, 64", f32>, !attn.tensor<"B, H, M, 64", f32>, !attn.tensor<"B, H, M, 48", f32>, !attn.tensor<"B, H, M, 48", f32>, !attn.tensor<"H, 511", f32>, !attn.tensor<"B, N", i64>) -> (!attn.tensor<"B, H, N, 48", f32>, !attn.tensor<"B, H, N", f32>)
  %t = attn.reorder %o index <"x0, x2, x1, x3"> inverse <"x0, x2, x1, x3"> : !attn.tensor<"B, H, N, 48", f32> -> !attn.tensor<"B, N, H, 48", f32>
  %y = attn.call "torch.nonzero(x0)"(%t) : (!attn.tensor<"B, N, H, 48", f32>) -> !attn.tensor<"found, 4", i64>
  attn.return %y : !attn.tensor<"found, 4", i64>
}
attn.func @positions(%q: !attn.tensor<"N, 8", f32>, %p: !attn.tensor<"N, 8", f32>, %k: !attn.tensor<"M, 8", f32>, %r: !attn.tensor<"M, 8", f32>) guards [] {
  %o, %lse = attn.attend over "i < N"
    query %q "i, d" width 8
    source "j < M" key %k "j, d" value %k "j, e" mask "j <= i" score "lambda dot: dot + inner(p[i, d], r[i - j, d])"
    capture p = %p
    capture r = %r
    normaliser softmax
    out "i, e" width 8 lse "i"
    : (!attn.tensor<"N, 8", f32>, !attn.tensor<"M, 8", f32>, !attn.tensor<"M, 8", f32>, !attn.tensor<"N, 8", f32>, !attn.tensor<"M, 8", f32>) -> (!attn.tensor<"N, 8", f32>, !attn.tensor<"N", f32>)
  attn.return %o : !attn.tensor<"N, 8", f32>
}
