"""Does one learning rate serve every size? One step's effect (`onestep`), and models trained to the end."""
