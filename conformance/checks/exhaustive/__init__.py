"""Every image of small scopes, judged by the thousand: no counterexample lies in them."""
