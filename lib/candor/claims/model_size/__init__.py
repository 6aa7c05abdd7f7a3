"""A study beside the claims: do the effects of claims 1, 5 and 6 grow, shrink or vanish with the model's size?"""
