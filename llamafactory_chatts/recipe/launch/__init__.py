"""Rules about how a run is started: engine, DeepSpeed, packages, cards, memory."""
