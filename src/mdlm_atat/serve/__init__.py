"""`atat serve`: a trained model as a page and a JSON API, on this machine unless asked otherwise.

A request is a frozen dataclass (`requests`), becomes a job (`jobs`) that waits for the one thread that asks the model
(`worker`), and is answered in the words of `answers`; `app` has the routes, `guard` who may use them.
"""
