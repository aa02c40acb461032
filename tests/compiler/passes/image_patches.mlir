// RUN: attnc opt -p "image-patches{names=B,H,N values=1,1,4096}"

// CHECK: guards ["N % 64 == 0"]
// CHECK-NEXT: attn.attend over "b < B, h < H, y < (N // 64 + 7) // 8, x < 8, i < min(8, N // 64 - y * 8) * 8"
// CHECK-NEXT: query %q "b, h, {{.*}}i % 8 + i // 8 * 64, d"
// CHECK-NEXT: source "j < {{.*}} * 14
// CHECK: tiles "64 x {{.*}}"
attn.func @f(%q: !attn.tensor<"B, H, N, 32", bf16>, %k: !attn.tensor<"B, H, N, 32", bf16>, %v: !attn.tensor<"B, H, N, 32", bf16>) {
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 32
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "abs(i // 64 - j // 64) <= 3 and abs(i % 64 - j % 64) <= 3" score "lambda dot: dot"
    normaliser softmax
    out "b, h, i, e" width 32 lse "b, h, i" attributes {at = "model.py:7"}
    : (!attn.tensor<"B, H, N, 32", bf16>, !attn.tensor<"B, H, N, 32", bf16>, !attn.tensor<"B, H, N, 32", bf16>) -> (!attn.tensor<"B, H, N, 32", bf16>, !attn.tensor<"B, H, N", f32>)
  attn.return %o : !attn.tensor<"B, H, N, 32", bf16>
}
