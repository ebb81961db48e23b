package chainrule
