"""What tests found out is printed at the end, even what ran in another process: record_property("found", text)."""


def pytest_terminal_summary(terminalreporter):
    reports = (report for reports in terminalreporter.stats.values() for report in reports)
    properties = (pair for report in reports for pair in getattr(report, "user_properties", []))
    found = dict.fromkeys(text for name, text in properties if name == "found")
    if found:
        terminalreporter.section("found")
        for text in found:
            terminalreporter.write_line(text)
