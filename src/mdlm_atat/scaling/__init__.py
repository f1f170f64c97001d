"""What training a network takes before it is trained: memory, time, disk and the command, from what was measured."""
