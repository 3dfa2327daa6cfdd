"""Plain facts: tokens, settings, the series encoding, errors. No torch, no llamafactory."""
