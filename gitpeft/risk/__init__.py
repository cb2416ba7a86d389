"""How risky a change is: change metrics, the scores that use them, and the evidence shown to people."""
