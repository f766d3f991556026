"""How a run advances: the step, the pack, the methods and their timestep schedules."""
