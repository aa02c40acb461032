tile.kernel @dilated(%q: !tile.mem<4, f32>, %k: !tile.mem<4, f32>, %v: !tile.mem<4, f32>, %o: !tile.mem<4, f32>, %lse: !tile.mem<3, f32>) outputs 2
  grid "b < B, h < H, r < 8, t < (N + 511) // 512" rows "i, t * 64, 64, (N - r + 7) // 8" {
  %Q = tile.load %q at "b, h, i * 8 + r, d" : !tile.mem<4, f32> -> !tile.tile<"i:64, d:64", f32>
  %m = tile.full "-inf" : !tile.tile<"i:64", f32>
  %l = tile.full "0.0" : !tile.tile<"i:64", f32>
  %a = tile.full "0.0" : !tile.tile<"i:64, e:64", f32>
  %m2, %l2, %a2 = tile.for j in ["max(t * 64 - 32, 0), min(t * 64 + 96, (M - r + 7) // 8)"] step 128 partial carry (%mi = %m, %li = %l, %ai = %a) : (!tile.tile<"i:64", f32>, !tile.tile<"i:64", f32>, !tile.tile<"i:64, e:64", f32>) {
    %K = tile.load %k at "b, h, j * 8 + r, d" : !tile.mem<4, f32> -> !tile.tile<"j:128, d:64", f32>
    %S = tile.dot %Q, %K : !tile.tile<"i:64, d:64", f32>, !tile.tile<"j:128, d:64", f32> -> !tile.tile<"i:64, j:128", f32>
    %T = tile.map "lambda dot: dot * 0.18033688" (%S) : (!tile.tile<"i:64, j:128", f32>) -> !tile.tile<"i:64, j:128", f32>
    %U = tile.mask %T where "abs(i - j) <= 32" : !tile.tile<"i:64, j:128", f32> -> !tile.tile<"i:64, j:128", f32>
    %mx = tile.reduce "max" %U : !tile.tile<"i:64, j:128", f32> -> !tile.tile<"i:64", f32>
    %mn = tile.map "lambda m, x: max(m, x)" (%mi, %mx) : (!tile.tile<"i:64", f32>, !tile.tile<"i:64", f32>) -> !tile.tile<"i:64", f32>
    %ms = tile.map "lambda m: where(m == -inf, 0.0, m)" (%mn) : (!tile.tile<"i:64", f32>) -> !tile.tile<"i:64", f32>
    %al = tile.map "lambda m, s: exp2(m - s)" (%mi, %ms) : (!tile.tile<"i:64", f32>, !tile.tile<"i:64", f32>) -> !tile.tile<"i:64", f32>
    %p = tile.map "lambda s, m: exp2(s - m)" (%U, %ms) : (!tile.tile<"i:64, j:128", f32>, !tile.tile<"i:64", f32>) -> !tile.tile<"i:64, j:128", f32>
    %ps = tile.reduce "sum" %p : !tile.tile<"i:64, j:128", f32> -> !tile.tile<"i:64", f32>
    %ln = tile.map "lambda l, a, p: l * a + p" (%li, %al, %ps) : (!tile.tile<"i:64", f32>, !tile.tile<"i:64", f32>, !tile.tile<"i:64", f32>) -> !tile.tile<"i:64", f32>
    %V = tile.load %v at "b, h, j * 8 + r, e" : !tile.mem<4, f32> -> !tile.tile<"j:128, e:64", f32>
    %as = tile.map "lambda acc, a: acc * a" (%ai, %al) : (!tile.tile<"i:64, e:64", f32>, !tile.tile<"i:64", f32>) -> !tile.tile<"i:64, e:64", f32>
    %an = tile.dot %p, %V acc %as : !tile.tile<"i:64, j:128", f32>, !tile.tile<"j:128, e:64", f32>, !tile.tile<"i:64, e:64", f32> -> !tile.tile<"i:64, e:64", f32>
    tile.yield %mn, %ln, %an : !tile.tile<"i:64", f32>, !tile.tile<"i:64", f32>, !tile.tile<"i:64, e:64", f32>
  }
  %inv = tile.map "lambda l: where(l > 0, 1.0 / l, 0.0)" (%l2) : (!tile.tile<"i:64", f32>) -> !tile.tile<"i:64", f32>
  %O = tile.map "lambda acc, x: acc * x" (%a2, %inv) : (!tile.tile<"i:64, e:64", f32>, !tile.tile<"i:64", f32>) -> !tile.tile<"i:64, e:64", f32>
  tile.store %O, %o at "b, h, i * 8 + r, e" : !tile.tile<"i:64, e:64", f32> -> !tile.mem<4, f32>
  %L = tile.map "lambda m, l: (m + log2(l)) * 0.6931471805599453" (%m2, %l2) : (!tile.tile<"i:64", f32>, !tile.tile<"i:64", f32>) -> !tile.tile<"i:64", f32>
  tile.store %L, %lse at "b, h, i * 8 + r" : !tile.tile<"i:64", f32> -> !tile.mem<3, f32>
}
tile.kernel @band(%q: !tile.mem<2, f32>, %r: !tile.mem<2, f32>, %dq: !tile.mem<2, f32>, %dr: !tile.mem<2, f32>) outputs 2
  grid "t < (N + 15) // 16" sequential 1 rows "i, t * 16, 16, N" {
  %Q = tile.load %q at "i, d" : !tile.mem<2, f32> -> !tile.tile<"i:16, d:8", f32>
  %z = tile.full "0.0" : !tile.tile<"i:16, d:8", f32>
  %sum = tile.for j in ["0, i + 1"] step 16 partial carry (%c = %z) : (!tile.tile<"i:16, d:8", f32>) {
    %s = tile.band_dot %Q, %r at "i - j, d" : !tile.tile<"i:16, d:8", f32>, !tile.mem<2, f32> -> !tile.tile<"i:16, j:16", f32>
    %n = tile.band_dot %s, %r at "i - j, d" acc %c : !tile.tile<"i:16, j:16", f32>, !tile.mem<2, f32>, !tile.tile<"i:16, d:8", f32> -> !tile.tile<"i:16, d:8", f32>
    tile.band_add %s, %Q, %dr at "i - j, d" : !tile.tile<"i:16, j:16", f32>, !tile.tile<"i:16, d:8", f32> -> !tile.mem<2, f32>
    tile.yield %n : !tile.tile<"i:16, d:8", f32>
  }
  tile.store %sum, %dq at "i, d" : !tile.tile<"i:16, d:8", f32> -> !tile.mem<2, f32>
}
