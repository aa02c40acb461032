// RUN: attnc opt -p "keep-weights{names=N,M values=64,64}"

// A result more, and a guard: few rows keep no weights.
// CHECK: guards ["N >= 2"]
// CHECK: %o, %lse, %{{.*}} = attn.attend
// CHECK: out "i, e" width 64 lse "i" weights base2
// CHECK: -> ({{.*}}, !attn.tensor<"2, N", f32>)
attn.func @f(%q: !attn.tensor<"N, 64", f32>, %k: !attn.tensor<"M, 64", f32>, %v: !attn.tensor<"M, 64", f32>) {
  %o, %lse = attn.attend over "i < N"
    query %q "i, d" width 64
    source "j < M" key %k "j, d" value %v "j, e" mask "True" score "lambda dot: dot"
    normaliser softmax
    out "i, e" width 64 lse "i"
    : (!attn.tensor<"N, 64", f32>, !attn.tensor<"M, 64", f32>, !attn.tensor<"M, 64", f32>) -> (!attn.tensor<"N, 64", f32>, !attn.tensor<"N", f32>)
  attn.return %o : !attn.tensor<"N, 64", f32>
}

// -----

// 16 bits have no need of it, but fills have.
// CHECK: %o, %lse = attn.attend
// CHECK: lse "i" weights natural
attn.func @g(%q: !attn.tensor<"N, 64", bf16>, %k: !attn.tensor<"M, 64", bf16>, %v: !attn.tensor<"M, 64", bf16>) {
  %o, %lse = attn.attend over "i < N"
    query %q "i, d" width 64
    source "j < M" key %k "j, d" value %v "j, e" mask "True" score "lambda dot: dot"
    normaliser softmax
    out "i, e" width 64 lse "i"
    : (!attn.tensor<"N, 64", bf16>, !attn.tensor<"M, 64", bf16>, !attn.tensor<"M, 64", bf16>) -> (!attn.tensor<"N, 64", bf16>, !attn.tensor<"N", f32>)
  %p, %lse2 = attn.attend over "i < N"
    query %q "i, d" width 64
    source "j < M" key %k "j, d" value %v "j, e" mask "True" score "lambda dot: where(j <= i, dot, -1000000000.0)"
    normaliser softmax
    out "i, e" width 64 lse "i"
    : (!attn.tensor<"N, 64", bf16>, !attn.tensor<"M, 64", bf16>, !attn.tensor<"M, 64", bf16>) -> (!attn.tensor<"N, 64", bf16>, !attn.tensor<"N", f32>)
  attn.return %o, %p : !attn.tensor<"N, 64", bf16>, !attn.tensor<"N, 64", bf16>
}
