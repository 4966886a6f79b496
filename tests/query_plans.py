"""How a database means to run the statements of an action."""

from sqlalchemy import event, text


def plans_of(engine, action):
    """Run an action, answer the plans of all its statements."""
    plans, statements = [], []

    def remember(_connection, _cursor, statement, parameters, _context, many):
        if not many and not statement.startswith("EXPLAIN"):
            statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", remember)
    try:
        action()
    finally:
        event.remove(engine, "before_cursor_execute", remember)
    explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            connection.execute(text("SET LOCAL enable_bitmapscan = off"))
        for statement, parameters in statements:
            if statement.startswith(("SELECT", "UPDATE")):
                rows = connection.exec_driver_sql(explain + statement, parameters)
                plans += [str(row[-1]) for row in rows]
    return plans
