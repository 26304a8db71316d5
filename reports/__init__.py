"""What people look at: terminal output, tables. Reads the warehouse; no Prefect, no torch."""
