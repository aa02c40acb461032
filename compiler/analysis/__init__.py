"""Questions about a program that passes ask: index sets, bounds, cost."""
