"""What happens to caches, threads and processes when everything happens at once; each file runs by itself as well."""
