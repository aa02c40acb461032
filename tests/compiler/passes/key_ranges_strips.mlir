// RUN: attnc opt -p "choose-tiles{target=cpu-avx512-amx rows=256 keys=128},online-softmax,key-ranges{strip=32}"

// A strip's keys are in terms of its first row, which has the name of the rows.
// CHECK: step 128 partial{{.*}}strips = [#tile.range<"max(i - 128, 0), min(N, i + 160)">]{{.*}}unmasked = #tile.range<"max(min(i + 32, N) - 129, 0), min(N, i + 129)">
attn.func @f(%q: !attn.tensor<"B, H, N, 64", bf16>, %k: !attn.tensor<"B, H, N, 64", bf16>, %v: !attn.tensor<"B, H, N, 64", bf16>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "abs(i - j) <= 128" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H, N, 64", bf16>) -> (!attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", bf16>
}

// -----

// Where no key is dead there is nothing to tell.
// CHECK: step 128 full
// CHECK-NOT: strips
// CHECK: step 128 partial{{.*}}strips = [#tile.range<"0, i + 1">, #tile.range<"i + 1, min(N, i + 32)">], strip = #builtin.int<32>, rest

attn.func @f(%q: !attn.tensor<"B, H, N, 64", bf16>, %k: !attn.tensor<"B, H, N, 64", bf16>, %v: !attn.tensor<"B, H, N, 64", bf16>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 64
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "j <= i" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "b, h, i, e" width 64 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H, N, 64", bf16>) -> (!attn.tensor<"B, H, N, 64", bf16>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 64", bf16>
}
