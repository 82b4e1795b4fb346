"""From a user's table of files, texts and numbers to `Batch`es: read, infer, split, decode, load."""
