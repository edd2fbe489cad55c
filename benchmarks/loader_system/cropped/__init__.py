"""A third party's system, found through its entry point: photographs as the loader's benchmark compares them."""
