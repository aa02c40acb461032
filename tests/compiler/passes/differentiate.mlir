// RUN: attnc opt -p differentiate{wanted=q,v,table}

// CHECK: attn.func @f_gradient({{.*}}, %out: !attn.tensor<"H, N, 64", f32>, %lse: !attn.tensor<"H, N", f32>, %d_result: !attn.tensor<"N, H, 64", f32>) guards ["N % 8 == 0"]
// CHECK: %d_o = attn.reorder %d_result index <"x1, x0, x2"> inverse <"x1, x0, x2">
// CHECK: %r = attn.call "torch.relu(x0)"(%q)
// CHECK: %d_r, %d_v, %d_table = attn.attend_gradient of "query", "value0", "capture:table" over "h < H, i < N"
// CHECK: query %r "h, i, d" width 64
// CHECK: mask "j <= i" score "lambda dot: dot * 0.125 + table[i - j]"
// CHECK: given %out, %lse d_out %d_o attributes {at = "model.py:7"}
// CHECK: %d_q = attn.call_gradient "torch.relu(x0)" (%q) given [0] (%d_r) wanted [0] attributes {at = "model.py:6"}
// CHECK: attn.return %d_q, %d_v, %d_table
attn.func @f(%q: !attn.tensor<"H, N, 64", f32>, %k: !attn.tensor<"H, N, 64", f32>, %v: !attn.tensor<"H, N, 64", f32>, %table: !attn.tensor<"N", f32>) guards ["N % 8 == 0"] {
  %r = attn.call "torch.relu(x0)"(%q) {at = "model.py:6"} : (!attn.tensor<"H, N, 64", f32>) -> !attn.tensor<"H, N, 64", f32>
  %o, %lse = attn.attend over "h < H, i < N"
    query %r "h, i, d" width 64
    source "j < N" key %k "h, j, d" value %v "h, j, e" mask "j <= i" score "lambda dot: dot * 0.125 + table[i - j]"
    capture table = %table
    normaliser softmax
    out "h, i, e" width 64 lse "h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"H, N, 64", f32>, !attn.tensor<"H, N, 64", f32>, !attn.tensor<"H, N, 64", f32>, !attn.tensor<"N", f32>) -> (!attn.tensor<"H, N, 64", f32>, !attn.tensor<"H, N", f32>)
  %y = attn.reorder %o index "x1, x0, x2" inverse "x1, x0, x2" : !attn.tensor<"H, N, 64", f32> -> !attn.tensor<"N, H, 64", f32>
  attn.return %y : !attn.tensor<"N, H, 64", f32>
}
