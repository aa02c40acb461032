"""The zoo: published attention systems as plain PyTorch, found, judged, timed and drawn."""
