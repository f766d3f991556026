"""Pages for people's eyes: a static report of a folder of runs, and the same pages live while they run.

`index` says what the runs are and `pictures` makes their images, both without torch; `results` holds what a
study computes; `write` puts a static report together and `live` serves it over HTTP.
"""
