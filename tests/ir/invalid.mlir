// expect: cannot read the expression 'i <': invalid syntax
attn.func @f(%q: !attn.tensor<"i <", f32>) {
  attn.return %q : !attn.tensor<"N", f32>
}
// -----
// expect: Operation attn.reorder terminates block in single-block region but is not a terminator
attn.func @f(%q: !attn.tensor<"N, 4", f32>) {
  %t = attn.reorder %q index <"x0, x1"> inverse <"x0, x1"> : !attn.tensor<"N, 4", f32> -> !attn.tensor<"N, 4", f32>
}
// -----
// expect: no argument has a dimension of size M to bind it (from model.py:7)
attn.func @f(%q: !attn.tensor<"N, 4", f32>) {
  %t = attn.reorder %q index <"x0, x1"> inverse <"x0, x1"> {at = "model.py:7"} : !attn.tensor<"N, 4", f32> -> !attn.tensor<"M, 4", f32>
  attn.return %t : !attn.tensor<"M, 4", f32>
}
// -----
// expect: an index of 1 and an inverse of 2 expressions
attn.func @f(%q: !attn.tensor<"N, 4", f32>) {
  %t = attn.reorder %q index <"x0"> inverse <"x0, x1"> : !attn.tensor<"N, 4", f32> -> !attn.tensor<"4, N", f32>
  attn.return %t : !attn.tensor<"4, N", f32>
}
// -----
// expect: attn.attend (from model.py:3): the query map has 1 expressions for a tensor of rank 2; source 0: the mask uses k, which nothing there defines; source 0: reads bias, which is not among the captured tensors
attn.func @f(%q: !attn.tensor<"N, 8", f32>) {
  %o, %lse = attn.attend over "i < N"
    query %q "i" width 8
    source "j < N" key %q "j, d" value %q "j, e" mask "j < k" score "lambda dot: dot + bias[i]"
    normaliser softmax
    out "i, e" width 8 lse "i" attributes {at = "model.py:3"}
    : (!attn.tensor<"N, 8", f32>, !attn.tensor<"N, 8", f32>, !attn.tensor<"N, 8", f32>) -> (!attn.tensor<"N, 8", f32>, !attn.tensor<"N", f32>)
  attn.return %o : !attn.tensor<"N, 8", f32>
}
// -----
// expect: source 0: the key map uses i, which nothing there defines
attn.func @f(%q: !attn.tensor<"N, 8", f32>) {
  %o, %lse = attn.attend over "i < N"
    query %q "i, d" width 8
    source "j < N" key %q "j + i, d" value %q "j, e" mask "j < i" score "lambda dot: dot"
    normaliser softmax
    out "i, e" width 8 lse "i"
    : (!attn.tensor<"N, 8", f32>, !attn.tensor<"N, 8", f32>, !attn.tensor<"N, 8", f32>) -> (!attn.tensor<"N, 8", f32>, !attn.tensor<"N", f32>)
  attn.return %o : !attn.tensor<"N, 8", f32>
}
// -----
// expect: normaliser 'sparsemax' is not known; known: softmax, none
attn.func @f(%q: !attn.tensor<"N, 8", f32>) {
  %o, %lse = attn.attend over "i < N"
    query %q "i, d" width 8
    source "j < N" key %q "j, d" value %q "j, e" mask "j < i" score "lambda dot: dot"
    normaliser sparsemax
    out "i, e" width 8 lse "i"
    : (!attn.tensor<"N, 8", f32>, !attn.tensor<"N, 8", f32>, !attn.tensor<"N, 8", f32>) -> (!attn.tensor<"N, 8", f32>, !attn.tensor<"N", f32>)
  attn.return %o : !attn.tensor<"N, 8", f32>
}
// -----
// expect: mask must be a condition, found i - j
attn.func @f(%q: !attn.tensor<"N, 8", f32>) {
  %o, %lse = attn.attend over "i < N"
    query %q "i, d" width 8
    source "j < N" key %q "j, d" value %q "j, e" mask "i - j" score "lambda dot: dot"
    normaliser softmax
    out "i, e" width 8 lse "i"
    : (!attn.tensor<"N, 8", f32>, !attn.tensor<"N, 8", f32>, !attn.tensor<"N, 8", f32>) -> (!attn.tensor<"N, 8", f32>, !attn.tensor<"N", f32>)
  attn.return %o : !attn.tensor<"N, 8", f32>
}
// -----
// expect: expected axes such as 'i:64, j:128', found 'i64'
tile.kernel @k(%q: !tile.mem<2, f32>) outputs 1
  grid "t < N" rows "i, t * 4, 4, N" {
  %Q = tile.load %q at <"i, d"> : !tile.mem<2, f32> -> !tile.tile<"i64", f32>
}
// -----
// expect: tile.kernel: the extent of t < h may use sizes only
tile.kernel @k(%q: !tile.mem<2, f32>) outputs 1
  grid "h < H, t < h" rows "i, t * 4, 4, N" {
}
// -----
// expect: tile.load: 1 index expressions for a memory of rank 2
tile.kernel @k(%q: !tile.mem<2, f32>) outputs 1
  grid "t < N" rows "i, t * 4, 4, N" {
  %Q = tile.load %q at <"i"> : !tile.mem<2, f32> -> !tile.tile<"i:4", f32>
}
// -----
// expect: tile.dot: operands <i:4, d:8> and <j:4, d:16> must share the one axis that the result <i:4, j:4> lacks
tile.kernel @k(%q: !tile.mem<2, f32>) outputs 1
  grid "t < N" rows "i, t * 4, 4, N" {
  %Q = tile.load %q at <"i, d"> : !tile.mem<2, f32> -> !tile.tile<"i:4, d:8", f32>
  %K = tile.load %q at <"i, d"> : !tile.mem<2, f32> -> !tile.tile<"j:4, d:16", f32>
  %S = tile.dot %Q, %K : !tile.tile<"i:4, d:8", f32>, !tile.tile<"j:4, d:16", f32> -> !tile.tile<"i:4, j:4", f32>
}
// -----
// expect: tile.map: 1 operands for parameters x, y
tile.kernel @k(%q: !tile.mem<2, f32>) outputs 1
  grid "t < N" rows "i, t * 4, 4, N" {
  %Q = tile.load %q at <"i, d"> : !tile.mem<2, f32> -> !tile.tile<"i:4, d:8", f32>
  %T = tile.map <"lambda x, y: x + y">(%Q) : (!tile.tile<"i:4, d:8", f32>) -> !tile.tile<"i:4, d:8", f32>
}
// -----
// expect: tile.reduce: 'prod' is not max or sum
tile.kernel @k(%q: !tile.mem<2, f32>) outputs 1
  grid "t < N" rows "i, t * 4, 4, N" {
  %Q = tile.load %q at <"i, d"> : !tile.mem<2, f32> -> !tile.tile<"i:4, d:8", f32>
  %T = tile.reduce "prod" %Q : !tile.tile<"i:4, d:8", f32> -> !tile.tile<"i:4", f32>
}
// -----
// expect: tile.for: kind 'half' is not full or partial
tile.kernel @k(%q: !tile.mem<2, f32>) outputs 1
  grid "t < N" rows "i, t * 4, 4, N" {
  %m = tile.full <"0.0"> : !tile.tile<"i:4", f32>
  %r = tile.for j in ["0, N"] step 4 half carry (%c = %m) : (!tile.tile<"i:4", f32>) {
    tile.yield %c : !tile.tile<"i:4", f32>
  }
}
// -----
// expect: is used before it is defined
tile.kernel @k(%q: !tile.mem<2, f32>) outputs 1
  grid "t < N" rows "i, t * 4, 4, N" {
  %T = tile.map <"lambda x: x">(%Q) : (!tile.tile<"i:4, d:8", f32>) -> !tile.tile<"i:4, d:8", f32>
  %Q = tile.load %q at <"i, d"> : !tile.mem<2, f32> -> !tile.tile<"i:4, d:8", f32>
}
// -----
// expect: case.mlir:2: a hexadecimal float in dense<...> is not supported; write it in decimal
builtin.module {
  "test.op"() {x = dense<0xFF800000> : vector<2xf32>} : () -> ()
}
// -----
// expect: tile.mask reads table[i], but the kernel has no argument table of that rank
tile.kernel @k(%q: !tile.mem<2, f32>) outputs 1
  grid "t < N" rows "i, t * 4, 4, N" {
  %Q = tile.load %q at <"i, d"> : !tile.mem<2, f32> -> !tile.tile<"i:4, d:8", f32>
  %M = tile.mask %Q where <"table[i] > 0"> : !tile.tile<"i:4, d:8", f32> -> !tile.tile<"i:4, d:8", f32>
}
// -----
// expect: tile.band_dot: <i:4, d:8> and <j:4, k:4> must share one axis
tile.kernel @k(%q: !tile.mem<2, f32>) outputs 1
  grid "t < N" rows "i, t * 4, 4, N" {
  %Q = tile.load %q at <"i, d"> : !tile.mem<2, f32> -> !tile.tile<"i:4, d:8", f32>
  %S = tile.band_dot %Q, %q at <"i - j, d"> : !tile.tile<"i:4, d:8", f32>, !tile.mem<2, f32> -> !tile.tile<"j:4, k:4", f32>
}
// -----
// expect: inner(p[i, d], 2.0) must be of two captured tensors, read along the features d
attn.func @f(%q: !attn.tensor<"N, 8", f32>) guards [] {
  %o, %lse = attn.attend over "i < N"
    query %q "i, d" width 8
    source "j < N" key %q "j, d" value %q "j, e" mask "True" score "lambda dot: dot + inner(p[i, d], 2.0)"
    capture p = %q
    normaliser softmax
    out "i, e" width 8 lse "i"
    : (!attn.tensor<"N, 8", f32>, !attn.tensor<"N, 8", f32>, !attn.tensor<"N, 8", f32>, !attn.tensor<"N, 8", f32>) -> (!attn.tensor<"N, 8", f32>, !attn.tensor<"N", f32>)
  attn.return %o : !attn.tensor<"N, 8", f32>
}
