"""What every optimizer of fallline promises, as checks that ship with the package: for our methods and for yours.

from fallline.testing import check
print(check(my_method))
print(check(my_method, layouts=("eager", "leaf")))
"""

from fallline.testing.check import CONTRACTS, Contract, Report, Result, check, contract
from fallline.testing.harness import LAYOUTS
from fallline.testing.promises import PROMISES

__all__ = ["CONTRACTS", "LAYOUTS", "PROMISES", "Contract", "Report", "Result", "check", "contract"]
