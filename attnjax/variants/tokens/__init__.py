"""Networks that read an image as more or fewer tokens: by scales, tiles, reduction."""
