"""Thin Prefect tasks: read by id, call one pure function, write, return a receipt."""
