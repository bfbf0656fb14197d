//! What the driver says of the card beside a measurement: its version, and temperature and clock right after each
//! repetition. Asked through a probe process, as everything of NVML; what it does not say is not known, and no reason to
//! stop a bench.

use super::record::Place;
use crate::probe::ask::ask_once;
use crate::probe::protocol::{GpuAnswer, Gpus, Setup};
use std::time::Duration;

/// A card that does not answer within this is left alone.
const PATIENCE: Duration = Duration::from_secs(5);

/// A card's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::cli) struct Heat {
    pub(in crate::cli) driver: Option<String>,
    pub(in crate::cli) temperature_celsius: Option<i64>,
    pub(in crate::cli) sm_clock_mhz: Option<i64>,
}

/// The state of the card that is measured. Nothing on the CPU.
pub(in crate::cli) fn read(place: &Place) -> Heat {
    if place.backend == "cpu" {
        return Heat::default();
    }
    let setup = Setup { nvml_library: None, disk_path: "/".into(), gpu_grace_ms: PATIENCE.as_millis() as u64 };
    let asked = std::env::current_exe()
        .map_err(|error| error.to_string())
        .and_then(|soakd| ask_once(&soakd, setup, &[], PATIENCE + Duration::from_secs(1)));
    match asked.map(|readings| readings.gpus) {
        Ok(Gpus::Present(cards)) => {
            let renumbered = std::env::var_os("CUDA_VISIBLE_DEVICES").is_some();
            card(&cards, place.device, renumbered).map(heat).unwrap_or_default()
        }
        _ => Heat::default(),
    }
}

/// CUDA's n-th device among NVML's: the only one, or the n-th if CUDA was not told to count otherwise.
fn card(cards: &[GpuAnswer], device: u32, renumbered: bool) -> Option<&GpuAnswer> {
    match cards {
        [only] => Some(only),
        _ if renumbered => None,
        _ => cards.iter().find(|card| card.ordinal == device),
    }
}

fn heat(card: &GpuAnswer) -> Heat {
    let reading = card.reading.present();
    Heat {
        driver: card.facts.as_ref().map(|facts| facts.driver.clone()),
        temperature_celsius: reading.and_then(|reading| reading.temperature_celsius),
        sm_clock_mhz: reading.and_then(|reading| reading.sm_clock_mhz),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sample::DeviceReading;
    use crate::probe::protocol::Outcome;

    fn answer(ordinal: u32, celsius: i64) -> GpuAnswer {
        let reading = DeviceReading { temperature_celsius: Some(celsius), ..DeviceReading::default() };
        GpuAnswer { facts: None, ordinal, reading: Outcome::Present(reading), failures: Vec::new() }
    }

    #[test]
    fn a_card_is_not_taken_for_another() {
        let two = [answer(0, 40), answer(1, 60)];
        let celsius = |cards: &[GpuAnswer], device, renumbered| {
            card(cards, device, renumbered).and_then(|card| heat(card).temperature_celsius)
        };
        assert_eq!(celsius(&two, 1, false), Some(60));
        assert_eq!(celsius(&two, 1, true), None, "CUDA counts otherwise: which it is cannot be known");
        assert_eq!(celsius(&two[..1], 0, true), Some(40), "there is but one");
        assert_eq!(celsius(&two, 2, false), None);
        assert_eq!(celsius(&[], 0, false), None);
    }
}
