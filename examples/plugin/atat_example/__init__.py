"""One plugin of each kind for mdlm-atat, a module each."""
