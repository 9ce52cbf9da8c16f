"""Ways of calling: the same batch must give the same answer however a trainer calls the implementation (CALL-*)."""
