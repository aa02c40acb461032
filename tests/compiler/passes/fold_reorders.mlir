// RUN: attnc opt -p fold-reorders

// CHECK-NOT: attn.reorder
// CHECK: query %q "b, h, (i + 3) % N, d"
// CHECK: out "b, h, (i + 3) % N, e" width 64 lse "b, h, i"
// CHECK-NOT: attn.reorder
// CHECK: attn.return %o
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, N, 64", f32>, %v: !attn.tensor<"B, H, N, 64", f32>) {
  %r = attn.reorder %q index "x0, x1, (x2 + 3) % N, x3" inverse "x0, x1, (x2 - 3) % N, x3" : !attn.tensor<"B, H, N, 64", f32> -> !attn.tensor<"B, H, N, 64", f32>
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %r "b, h, i, d" width 64
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "j <= i" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  %y = attn.reorder %o index "x0, x1, (x2 - 3) % N, x3" inverse "x0, x1, (x2 + 3) % N, x3" : !attn.tensor<"B, H, N, 64", f32> -> !attn.tensor<"B, H, N, 64", f32>
  attn.return %y : !attn.tensor<"B, H, N, 64", f32>
}

// -----

// What moves rows goes into the store; a view that parts the features stays.
// CHECK: out "b, M * h + i, e" width 24
// CHECK: attn.reorder %o index <"x0, x1, C * x2 + x3"> inverse <"x0, x1, x2 // C % R, x2 % C">
// CHECK: attn.return
attn.func @parts(%x: !attn.tensor<"R, C", f32>, %q: !attn.tensor<"B, H, M, 24", f32>, %k: !attn.tensor<"B, H, N, 24", f32>, %v: !attn.tensor<"B, H, N, 24", f32>) guards ["C * R == 24"] {
  %o, %lse = attn.attend over "b < B, h < H, i < M"
    query %q "b, h, i, d" width 24
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "True" score "lambda dot: dot"
    normaliser softmax
    out "b, h, i, e" width 24 lse "b, h, i"
    : (!attn.tensor<"B, H, M, 24", f32>, !attn.tensor<"B, H, N, 24", f32>, !attn.tensor<"B, H, N, 24", f32>) -> (!attn.tensor<"B, H, M, 24", f32>, !attn.tensor<"B, H, M", f32>)
  %y = attn.reorder %o index "x0, x1 // M, x1 % M, C * x2 + x3" inverse "x0, x1 * M + x2 + x3 // C // R, x3 // C % R, x3 % C" : !attn.tensor<"B, H, M, 24", f32> -> !attn.tensor<"B, H * M, R, C", f32>
  attn.return %y : !attn.tensor<"B, H * M, R, C", f32>
}
