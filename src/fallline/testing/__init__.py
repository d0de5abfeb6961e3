"""What every optimizer of fallline promises, as checks that ship with the package: for our methods and for yours.

from fallline.testing import check
print(check(my_method))
"""

from fallline.testing.check import CONTRACTS, Report, Result, check, contract

__all__ = ["CONTRACTS", "Report", "Result", "check", "contract"]
