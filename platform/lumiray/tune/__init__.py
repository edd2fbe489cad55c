"""Search over the settings of any system's training: spaces, studies, trials under Ray Tune, reports."""
