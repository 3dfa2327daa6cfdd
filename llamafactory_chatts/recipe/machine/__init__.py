"""The machine: cards, memory and processors, also inside a control group; locks of builds."""
