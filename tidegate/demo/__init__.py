"""The main job, told once from end to end with real parts: `tidegate demo`.

`story` is the plot, `changes` the edits that are pushed, `traffic` the crowd that asks, `screen` what a
person sees, `summary` the numbers. It uses the toolkit as a user would: by git and by commands.
"""
