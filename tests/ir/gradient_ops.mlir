attn.func @f(%q: !attn.tensor<"B, N, 8", f32>, %k: !attn.tensor<"M, 8", f32>, %v: !attn.tensor<"M, 4", f32>, %bias: !attn.tensor<"N + M", f32>, %ids: !attn.tensor<"N", i64>, %o: !attn.tensor<"B, N, 4", f32>, %lse: !attn.tensor<"B, N", f32>, %d: !attn.tensor<"B, N, 4", f32>, %d_lse: !attn.tensor<"B, N", f32>) {
  %d_q, %d_k, %d_v, %d_bias = attn.attend_gradient of "query", "key0", "value0", "capture:bias" over "b < B, i < N"
    query %q "b, i, d" width 8
    source "j < M" key %k "j, d" value %v "j, e" mask "j <= i" score "lambda dot: dot * 0.125 + bias[i - j + M]"
    capture bias = %bias
    normaliser softmax tiles "64 x 128"
    out "b, i, e" width 4 lse "b, i"
    given %o, %lse d_out %d d_lse %d_lse attributes {at = "model.py:3"}
    : (!attn.tensor<"B, N, 8", f32>, !attn.tensor<"M, 8", f32>, !attn.tensor<"M, 4", f32>, !attn.tensor<"N + M", f32>, !attn.tensor<"B, N, 4", f32>, !attn.tensor<"B, N", f32>, !attn.tensor<"B, N, 4", f32>, !attn.tensor<"B, N", f32>) -> (!attn.tensor<"B, N, 8", f32>, !attn.tensor<"M, 8", f32>, !attn.tensor<"M, 4", f32>, !attn.tensor<"N + M", f32>)
  %d_k2 = attn.attend_gradient of "key0" over "b < B, i < N"
    query %q "b, i, d" width 8
    source "j < M" key %k "j, d" value %v "j, e" mask "True" score "lambda dot: dot"
    normaliser softmax
    out "b, i, e" width 4 lse "b, i"
    given %o, %lse d_lse %d_lse
    : (!attn.tensor<"B, N, 8", f32>, !attn.tensor<"M, 8", f32>, !attn.tensor<"M, 4", f32>, !attn.tensor<"B, N, 4", f32>, !attn.tensor<"B, N", f32>, !attn.tensor<"B, N", f32>) -> (!attn.tensor<"M, 8", f32>)
  %d_x, %d_y = attn.call_gradient "torch.linalg.qr(x0 @ x1.mT)" (%q, %q, %ids) given [1] (%d) wanted [0, 1] attributes {at = "model.py:4"} : (!attn.tensor<"B, N, 8", f32>, !attn.tensor<"B, N, 8", f32>, !attn.tensor<"N", i64>) (!attn.tensor<"B, N, 4", f32>)
  %table = attn.scatter %d_lse over "b < B, i < N" to "ids.int[i]" capture ids = %ids attributes {at = "model.py:5"} : (!attn.tensor<"B, N", f32>, !attn.tensor<"N", i64>) -> (!attn.tensor<"N + M", f32>)
  %total = attn.scatter %d_lse over "b < B, i < b + 1" to "" : (!attn.tensor<"B, N", f32>) -> (!attn.tensor<"", f32>)
  attn.return %d_q, %table, %total : !attn.tensor<"B, N, 8", f32>, !attn.tensor<"N + M", f32>, !attn.tensor<"", f32>
}
