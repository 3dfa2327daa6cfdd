"""Before anything is loaded: arguments, other engines, the recipe's mistakes, registries."""
