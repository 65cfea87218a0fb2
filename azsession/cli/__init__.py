"""d"""


def main() -> None: ...
