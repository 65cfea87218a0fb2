"""The engines that keep messages, behind one interface: `base.Broker`."""
