"""The paper's figures from run folders."""
