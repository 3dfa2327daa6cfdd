"""Model and adapters: loaded, recognised, tuned, saved, exported."""
