"""The data plane: which row comes when (`plan`), where it lies (`index`), how it is read, decoded and written.

Everything here but `stream` works without Ray, so that it can be tested on small grids and used anywhere.
"""
