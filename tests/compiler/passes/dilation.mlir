// RUN: attnc opt -p dilation

// A window with holes becomes eight dense windows.
// CHECK: attn.attend over "b < B, h < H, r < 8, i < (N - r + 7) // 8"
// CHECK-NEXT: query %q "b, h, i * 8 + r, d"
// CHECK-NEXT: source "j < (N - r + 7) // 8" key %k "b, h, j * 8 + r, d" value %v "b, h, j * 8 + r, e" mask "abs(i - j) <= 32"
// CHECK: out "b, h, i * 8 + r, e" width 64 lse "b, h, i * 8 + r" attributes {at = "model.py:7"}
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, N, 64", f32>, %v: !attn.tensor<"B, H, N, 64", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "abs(i - j) <= 256 and (i - j) % 8 == 0" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}

// -----

// Bit masks and two-sided remainders say the same.
// CHECK: source "j < (N - r + 3) // 4" key %k "b, h, j * 4 + r, d" {{.*}} mask "j <= i"
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, N, 64", f32>, %v: !attn.tensor<"B, H, N, 64", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "(i & 3) == j % 4 and j <= i" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}

// -----

// Keys aligned at the end: the residue of a key depends on both lengths.
// CHECK: source "j < (M - (M + r - N) % 8 + 7) // 8" key %k "b, h, j * 8 + (M + r - N) % 8, d" {{.*}} mask "True"
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, M, 64", f32>, %v: !attn.tensor<"B, H, M, 64", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < M" key %k "b, h, j, d" value %v "b, h, j, e" mask "(i + M - N - j) % 8 == 0" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, M, 64", f32>, !attn.tensor<"B, H, M, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}

// -----

// Global tokens break the period: nothing changes.
// CHECK: attn.attend over "b < B, h < H, i < N"
// CHECK: mask "(i - j) % 8 == 0 or j < 4"
attn.func @f(%q: !attn.tensor<"B, H, N, 64", f32>, %k: !attn.tensor<"B, H, N, 64", f32>, %v: !attn.tensor<"B, H, N, 64", f32>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "(i - j) % 8 == 0 or j < 4" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N, 64", f32>) -> (!attn.tensor<"B, H, N, 64", f32>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", f32>
}
