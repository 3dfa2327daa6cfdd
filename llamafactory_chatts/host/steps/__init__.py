"""Steps of a training: passes, optimizer, evaluation, what a checkpoint must agree with."""
