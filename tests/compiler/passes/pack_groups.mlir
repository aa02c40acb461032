// RUN: attnc opt -p "pack-groups{names=B,H,G values=1,3,10}"

// CHECK: guards ["G % 2 == 0"]
// CHECK-NEXT: attn.attend over "b < B, h < H, g < G // 2, i < 16"
// CHECK-NEXT: query %q "b, h, g * 2 + i // 8, i % 8, d"
// CHECK-NEXT: source "j < 16" key %k "b, h, g * 2 + j // 8, j % 8, d" value %v "b, h, g * 2 + j // 8, j % 8, e"
// CHECK-SAME: mask "i // 8 == j // 8 and j % 8 <= i % 8" score "lambda dot: dot * slope[h, g * 2 + i // 8]"
attn.func @f(%q: !attn.tensor<"B, H, G, 8, 32", bf16>, %k: !attn.tensor<"B, H, G, 8, 32", bf16>, %v: !attn.tensor<"B, H, G, 8, 32", bf16>, %slope: !attn.tensor<"H, G", bf16>) {
  %o, %lse = attn.attend over "b < B, h < H, g < G, i < 8"
    query %q "b, h, g, i, d" width 32
    source "j < 8" key %k "b, h, g, j, d" value %v "b, h, g, j, e" mask "j <= i" score "lambda dot: dot * slope[h, g]"
    capture slope = %slope
    normaliser softmax
    out "b, h, g, i, e" width 32 lse "b, h, g, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, G, 8, 32", bf16>, !attn.tensor<"B, H, G, 8, 32", bf16>, !attn.tensor<"B, H, G, 8, 32", bf16>, !attn.tensor<"H, G", bf16>) -> (!attn.tensor<"B, H, G, 8, 32", bf16>, !attn.tensor<"B, H, G, 8", f32>)
  attn.return %o : !attn.tensor<"B, H, G, 8, 32", bf16>
}

// -----

// Groups that fill more than half of a tile have one of their own.
// CHECK: attn.attend over "b < B, h < H, g < G, i < 9"
attn.func @f(%q: !attn.tensor<"B, H, G, 9, 32", bf16>, %k: !attn.tensor<"B, H, G, 9, 32", bf16>, %v: !attn.tensor<"B, H, G, 9, 32", bf16>) {
  %o, %lse = attn.attend over "b < B, h < H, g < G, i < 9"
    query %q "b, h, g, i, d" width 32
    source "j < 9" key %k "b, h, g, j, d" value %v "b, h, g, j, e" mask "True" score "lambda dot: dot"
    normaliser softmax
    out "b, h, g, i, e" width 32 lse "b, h, g, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, G, 9, 32", bf16>, !attn.tensor<"B, H, G, 9, 32", bf16>, !attn.tensor<"B, H, G, 9, 32", bf16>) -> (!attn.tensor<"B, H, G, 9, 32", bf16>, !attn.tensor<"B, H, G, 9", f32>)
  attn.return %o : !attn.tensor<"B, H, G, 9, 32", bf16>
}

// -----

// Heads that share keys are for few-rows.
// CHECK: attn.attend over "b < B, h < H, g < G, i < 8"
attn.func @f(%q: !attn.tensor<"B, H, G, 8, 32", bf16>, %k: !attn.tensor<"B, G, 8, 32", bf16>, %v: !attn.tensor<"B, G, 8, 32", bf16>) {
  %o, %lse = attn.attend over "b < B, h < H, g < G, i < 8"
    query %q "b, h, g, i, d" width 32
    source "j < 8" key %k "b, g, j, d" value %v "b, g, j, e" mask "True" score "lambda dot: dot"
    normaliser softmax
    out "b, h, g, i, e" width 32 lse "b, h, g, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, G, 8, 32", bf16>, !attn.tensor<"B, G, 8, 32", bf16>, !attn.tensor<"B, G, 8, 32", bf16>) -> (!attn.tensor<"B, H, G, 8, 32", bf16>, !attn.tensor<"B, H, G, 8", f32>)
  attn.return %o : !attn.tensor<"B, H, G, 8, 32", bf16>
}
